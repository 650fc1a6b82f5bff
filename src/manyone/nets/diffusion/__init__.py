"""Diffusion models: noise schedules, the process between data and noise, samplers, guidance, denoisers, EMA.

schedules    cosine, linear and the few-step variance-preserving schedule
process      noising, what a network predicts, the training loss, known entries
sampling     DDPM, DDIM and DPM-Solver++ (2M), differentiable, with draws of one's own
guidance     classifier-free guidance in one call
"""
