"""WEMoE and E-WEMoE: merge the critical modules anew for every input, the rest once by task arithmetic.

Tang et al., "Merging Multi-Task Models via Weight-Ensembling Mixture of Experts" (arXiv 2402.00433), and Shen et al.,
"Efficient and Effective Weight-Ensembling Mixture of Experts" (arXiv 2410.21804): non-critical tensors become
theta_0 + scale sum_i tau_i; a critical module of block l runs with theta_0 + sum_i r_i(x) tau_i, where
r(x) = mean over tokens of the block's router. E-WEMoE prunes every tau by magnitude and shares one router. Routing by
the prompt, for causal language models, is this project's extension.
Public names: :class:`WeightEnsemblingMoE`.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from manyone.engine.words import check_keywords
from manyone.errors import ManyoneError
from manyone.merging.adaptation.learner import AdaptationLearner
from manyone.merging.adaptation.objectives import Objective
from manyone.merging.moe.critical import (
    critical_layers,
    forbid_fused_paths,
    plain_layer,
    stack_of,
    store,
    task_arithmetic_of,
)
from manyone.merging.moe.generation import (
    check_by_prompt,
    check_constant,
    check_routing,
    prompts_for,
    whole_prompts,
    with_decoder_start,
    with_positions,
)
from manyone.merging.moe.layout import find_layouts, is_causal, samples_of
from manyone.merging.moe.mixed_linear import STRATEGIES, BlockGate, MixedLinear, Strategy
from manyone.merging.moe.routing import POSITION_WIDTH, PassState, Prompts, Router, masks_of
from manyone.merging.moe.stack import SparseStack, Stack
from manyone.merging.roles import block_of, find_blocks
from manyone.nets import call
from manyone.randomness import generator_for
from manyone.weights.arithmetic import check_compatible, state_dicts
from manyone.weights.sparse import pack_sparse, unpack_sparse

Routing = Literal["sample", "batch", "prompt"]
Weights = Mapping[str, Tensor]


class WeightEnsemblingMoE(nn.Module):
    """One encoder whose critical layers are merged per sample (``routing="sample"``) or per batch (``"batch"``).

    A causal language model takes ``routing="prompt"``: weights are merged for each sequence, once, as its prompt says;
    see :meth:`generate` and :meth:`prompt`.

    ``encoder`` holds theta_0 and is copied, never changed; ``experts`` are modules like it or state dicts with its
    names.
    ``critical``: a role (``"mlp"``, ``"attention"``) or regular expressions on module paths.
    ``router_layers``: depth of the gate, 0, 1 or 2.
    ``prune_ratio``: fraction of each critical task-vector tensor that is dropped (0 keeps all; E-WEMoE uses 0.9).
    ``strategy``: how merged products are computed, see :mod:`manyone.merging.moe.mixed_linear`; ``"sparse"`` also
    stores the pruned task vectors sparsely. Only the parameters of ``routers`` require gradients.
    """

    def __init__(
        self,
        encoder: nn.Module,
        experts: Sequence[Weights | nn.Module],
        *,
        scale: float = 0.3,
        critical: str | Sequence[str] = "mlp",
        router_layers: int = 2,
        routing: Routing = "sample",
        prune_ratio: float = 0.0,
        shared_router: bool = False,
        position_code: bool = False,
        strategy: Strategy = "auto",
        seed: int = 0,
    ) -> None:
        super().__init__()
        experts = state_dicts(experts)
        if not experts:
            raise ManyoneError("WeightEnsemblingMoE needs at least one expert")
        if not 0 <= prune_ratio <= 1:
            raise ManyoneError(f"prune_ratio must be in [0, 1], got {prune_ratio}")
        encoder = copy.deepcopy(encoder).requires_grad_(False)
        base = encoder.state_dict()
        check_compatible(base, experts, finite=not any(v.is_meta for v in base.values()))
        layers = critical_layers(encoder, critical)
        replaced = {f"{name}.{kind}" for name in layers for kind in ("weight", "bias")}
        with torch.no_grad():
            stacks = {}
            for name, module in layers.items():
                weight = stack_of(base, experts, f"{name}.weight", prune_ratio)
                bias = None if module.bias is None else stack_of(base, experts, f"{name}.bias", prune_ratio)
                if not isinstance(module, nn.Linear):
                    weight = weight.transpose(1, 2)
                stacks[name] = (store(weight, strategy), bias)
            merged: set[tuple[int, torch.Size]] = set()  # tied weights have two names and are merged once
            for name, value in base.items():
                place = (value.data_ptr(), value.shape)
                if name not in replaced and value.is_floating_point() and (place not in merged or place[0] == 0):
                    merged.add(place)
                    value.copy_(task_arithmetic_of(base, experts, name, scale))
        self._assemble(
            encoder,
            stacks,
            experts=len(experts),
            scale=scale,
            router_layers=router_layers,
            routing=routing,
            prune_ratio=prune_ratio,
            shared_router=shared_router,
            position_code=position_code,
            strategy=strategy,
            seed=seed,
        )

    def _assemble(
        self,
        encoder: nn.Module,
        stacks: Mapping[str, tuple[Stack, Tensor | None]],
        *,
        experts: int,
        scale: float,
        router_layers: int,
        routing: str,
        prune_ratio: float,
        shared_router: bool,
        position_code: bool,
        strategy: str,
        seed: int,
    ) -> None:
        """Puts mixed layers into ``encoder`` (owned by now) and makes the routers."""
        if router_layers not in (0, 1, 2):
            raise ManyoneError(f"router_layers must be 0, 1 or 2, got {router_layers}")
        self._options: dict[str, Any] = {
            "experts": experts,
            "scale": scale,
            "router_layers": router_layers,
            "prune_ratio": prune_ratio,
            "shared_router": shared_router,
            "position_code": position_code,
            "seed": seed,
        }
        self._state = PassState()
        self._looked = False  # whether the samples' place in the network is known
        self.encoder = encoder.eval()
        self.routing, self.strategy = routing, strategy  # type: ignore[assignment]
        by_block: dict[str, list[str]] = {}
        for name in stacks:
            by_block.setdefault(block_of(name) or name, []).append(name)
        known = find_blocks(by_block)
        self.blocks = known + [block for block in by_block if block not in known]
        widths = [stacks[by_block[block][0]][0].shape[2] for block in self.blocks]
        if shared_router and len(set(widths)) > 1 and router_layers > 0:
            raise ManyoneError(f"shared_router needs blocks of one width, but their widths are {sorted(set(widths))}")
        first = next(iter(stacks.values()))[0].weight
        dtype, device = first.dtype, first.device

        def router(index: int) -> Router:
            width = widths[index] + (POSITION_WIDTH if position_code else 0)
            generator = generator_for(seed, "router", index)
            made = Router(
                width,
                experts,
                layers=router_layers,
                scale=scale,
                generator=generator,
                dtype=torch.float64 if dtype == torch.float64 else torch.float32,
            )
            return made.to(device)

        self.routers = nn.ModuleList([router(0)] if shared_router else [router(k) for k in range(len(self.blocks))])
        for index, block in enumerate(self.blocks):
            gate = BlockGate(index, block, self.routers[0 if shared_router else index], self._state, position_code)  # type: ignore[arg-type]
            for name in by_block[block]:
                parent, _, leaf = name.rpartition(".")
                holder = self.encoder.get_submodule(parent)
                old = getattr(holder, leaf)
                stack, bias = stacks[name]
                setattr(holder, leaf, MixedLinear(name, stack, bias, gate, conv1d=not isinstance(old, nn.Linear)))
                forbid_fused_paths(self.encoder, parent)

    # -- options that may change after construction ------------------------------------------------------------------

    @property
    def routing(self) -> Routing:
        """``"sample"``: each sample has its own weights. ``"batch"``: the batch's mean routing weights serve all.

        ``"prompt"``: each sequence has its own, from its prompt alone.
        """
        return self._state.routing  # type: ignore[return-value]

    @routing.setter
    def routing(self, value: Routing) -> None:
        if value not in ("sample", "batch", "prompt"):
            raise ManyoneError(f"routing must be 'sample', 'batch' or 'prompt', got {value!r}")
        if self._options["router_layers"] > 0:
            check_routing(self.encoder, value)
        self._state.routing = value

    @property
    def strategy(self) -> Strategy:
        """How merged products are computed."""
        return self._state.strategy  # type: ignore[return-value]

    @strategy.setter
    def strategy(self, value: Strategy) -> None:
        if value not in STRATEGIES:
            raise ManyoneError(f"strategy must be one of {', '.join(STRATEGIES)}, got {value!r}")
        self._state.strategy = value

    @contextmanager
    def given(self, r: Tensor) -> Iterator[None]:
        """Within the context, routing weights are ``r``: [N], [M, N] (M blocks) or [B, M, N]."""
        blocks, experts = len(self.blocks), self._options["experts"]
        if r.shape[-1] != experts or r.ndim not in (1, 2, 3) or (r.ndim > 1 and r.shape[-2] != blocks):
            raise ManyoneError(
                f"routing weights must be [{experts}], [{blocks}, {experts}] or [B, {blocks}, {experts}], "
                f"got {tuple(r.shape)}"
            )
        before = self._state.given
        self._state.given = r if r.ndim == 3 else r.expand(1, blocks, experts)
        try:
            yield
        finally:
            self._state.given = before

    def train(self, mode: bool = True) -> WeightEnsemblingMoE:
        """Routers follow ``mode``; the frozen encoder stays in evaluation mode (no dropout)."""
        super().train(mode)
        self.encoder.eval()
        return self

    # -- computation -------------------------------------------------------------------------------------------------

    def forward(self, inputs: Any) -> Any:
        """The encoder's output; a Mapping goes in as keywords and its attention mask hides padding from routers."""
        if self.routing == "prompt" and self._state.given is None:
            check_by_prompt(self._state.prompts, inputs)
            inputs = with_positions(self.encoder, inputs)
        self._look(inputs)
        with self._state.new_pass(masks_of(inputs), samples_of(inputs)):
            return call(self.encoder, inputs)

    @contextmanager
    def prompt(self, inputs: Any) -> Iterator[None]:
        """Within the context runs one batch of sequences that begin with the prompts ``inputs``.

        The first pass must be over ``inputs``; each block's router sees the prompts in it, without their padding, and
        the weights that it says are kept for all further passes over the same rows, with cached keys and values or
        without::

            with model.prompt(inputs):
                first = model(inputs)
                again = model({"input_ids": longer})

        Values at the prompts' last positions and after depend on nothing that comes later. Those at earlier positions
        of a prompt depend on the whole of it.
        """
        if self.routing != "prompt":
            raise ManyoneError(f"prompt() is for routing='prompt'; this model's routing is {self.routing!r}")
        prompts = prompts_for(self.encoder, inputs)
        self._look(with_decoder_start(self.encoder, inputs))

        def count_rows(module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
            if self._state.prompts is prompts:  # another thread has sequences of its own
                prompts.samples = samples_of(arguments[0] if arguments else keywords)

        hook = self.encoder.register_forward_pre_hook(count_rows, with_kwargs=True)
        try:
            with self._state.sequences(prompts):
                yield
        finally:
            hook.remove()

    @torch.no_grad()
    def generate(self, inputs: Any = None, **options: Any) -> Any:
        """The encoder's own ``generate`` (Hugging Face), each prompt with the weights that it alone says.

        ``inputs`` is what a tokeniser returns (or token ids [B, L]); prompts of unequal length are padded on the left.
        ``options`` go to ``generate``: all that shows the model the whole prompt first, search with beams included.
        """
        if not hasattr(self.encoder, "generate"):
            raise ManyoneError(f"{type(self.encoder).__name__} has no generate(); use `with model.prompt(inputs):`")
        given = {"input_ids": inputs} if isinstance(inputs, Tensor) else dict(inputs or {})
        given |= {k: options.pop(k) for k in ("input_ids", "attention_mask") if k in options}
        given = whole_prompts(self.encoder, given, options)
        if self.routing != "prompt":
            check_constant(self.routing, self._options["router_layers"])
            return self.encoder.generate(**given, **options)  # type: ignore[operator]
        with self.prompt(given):
            return self.encoder.generate(**given, **options)  # type: ignore[operator]

    @torch.no_grad()
    def routing_weights(self, inputs: Any) -> Tensor:
        """Routing weights [B, M, N] of a batch, blocks in the order of ``blocks``."""
        if self.routing == "prompt":
            with self.prompt(inputs):
                self(inputs)
                found = (self._state.prompts or Prompts(inputs, 0, 0, False)).routing
        else:
            self._look(inputs)
            with self._state.new_pass(masks_of(inputs), samples_of(inputs)) as current:
                call(self.encoder, inputs)
                found = current.routing
        for index, block in enumerate(self.blocks):
            if index not in found:
                raise ManyoneError(f"block {block!r} did not run on these inputs, so it has no routing weights")
        return torch.stack([found[k].expand(samples_of(inputs), -1) for k in range(len(self.blocks))], 1)

    @torch.no_grad()
    def _look(self, inputs: Any) -> None:
        """Finds the samples' place in the network, once, and warns of a causal one that another routing spoils."""
        if self._looked or samples_of(inputs) == 0:
            return
        constant = torch.full((self._options["experts"],), float(self._options["scale"]))
        dressed = self._state.dressed

        def run(some: Any) -> Any:
            with self._state.new_pass(masks_of(some), samples_of(some)):
                return call(self.encoder, some)

        device = next(self.parameters()).device
        quiet = _without_forward_hooks(self.encoder)
        with quiet, self.given(constant.to(device)), torch.autocast(device.type, enabled=False):
            layouts = find_layouts(run, self._state, inputs)
            for layer in self._layers():
                if layer.name in layouts:
                    layer.batch_dim, layer.flat = layouts[layer.name].batch_dim, layouts[layer.name].flat
            spoilt = self.routing != "prompt" and self._options["router_layers"] > 0 and is_causal(run, inputs)
        self._looked, self._state.dressed = True, dressed
        if spoilt:
            warnings.warn(
                f"{type(self.encoder).__name__} is causal, but with routing={self.routing!r} a later token changes "
                "what earlier ones give: to predict or generate tokens use routing='prompt'",
                stacklevel=3,
            )

    def adapt(
        self,
        loaders: Mapping[str, Any],
        heads: Mapping[str, Callable[[Tensor], Tensor]] | None = None,
        *,
        steps: int = 200,
        lr: float = 1e-3,
        objective: Objective = "entropy",
        **options: Any,
    ) -> WeightEnsemblingMoE:
        """Trains the routers on unlabelled inputs (test-time adaptation) and returns ``self``.

        ``loaders`` maps tasks to inputs held in memory (a Tensor or a Mapping of Tensors) or to an iterable of batches
        (a DataLoader; of a tuple the first entry is the input). ``heads`` maps tasks to functions feature -> logits;
        without heads the encoder's own logits are the predictions: a Hugging Face classifier's, or a causal language
        model's for the token after each prompt. Gradients stay with the routers, whatever is around the call.
        Further options are those of :class:`manyone.merging.adaptation.learner.AdaptationLearner`.
        """
        check_keywords(f"{type(self).__name__}.adapt", options, AdaptationLearner)
        with torch.inference_mode(False), torch.enable_grad():
            learner = AdaptationLearner(self, heads, loaders, objective=objective, lr=lr, steps=steps, **options)
            for _ in range(steps):
                learner.step()
        for parameter in self.routers.parameters():
            parameter.grad = None
        return self

    def fold(self, r: Tensor | None = None) -> nn.Module:
        """An ordinary encoder with the weights of a constant ``r`` [N] or [M, N]; default: that of 0-layer routers."""
        if r is None:
            if self._options["router_layers"] != 0:
                raise ManyoneError("only routers without layers can be folded; give the constant routing weights r")
            r = torch.stack([self.router(k).bias.detach() for k in range(len(self.blocks))])
        r = r.expand(len(self.blocks), self._options["experts"])
        plain = {id(layer): plain_layer(layer, r[layer.gate.index]) for layer in self._layers()}
        return copy.deepcopy(self.encoder, plain)  # the copy takes a plain layer wherever it meets a mixed one

    def prune_routers(self, ratio: float) -> None:
        """E-WEMoE's optional pruning of the trained routers' weight matrices by magnitude, in place."""
        for router in self.routers:
            router.prune(ratio)  # type: ignore[operator]

    def parameter_counts(self) -> dict[str, int]:
        """``trainable``; ``stored`` with dense task vectors; ``non_zero``: stored less the zeros of task vectors."""
        trainable = sum(p.numel() for p in self.routers.parameters())
        frozen = {id(p): p.numel() for p in self.encoder.parameters()}
        stored = trainable + sum(frozen.values())
        zeros = 0
        for layer in self._layers():
            experts, rows, columns = layer.stack.shape
            stored += (experts + 1) * rows * columns
            if isinstance(layer.stack, SparseStack):
                zeros += experts * rows * columns - layer.stack.values.numel()
            else:
                zeros += int((layer.stack.weight[:, 1:] == 0).sum()) if layer.stack.weight.device.type != "meta" else 0
            if layer.bias_stack is not None:
                stored += layer.bias_stack.numel()
                zeros += int((layer.bias_stack[1:] == 0).sum()) if layer.bias_stack.device.type != "meta" else 0
        return {"trainable": trainable, "stored": stored, "non_zero": stored - zeros}

    def stored_expert_parameters(self) -> int:
        """Non-zero entries of the critical layers' task vectors, without biases."""
        counted = [layer.stack.member(i) for layer in self._layers() for i in range(1, layer.stack.shape[0] + 1)]
        return sum(int(tau.count_nonzero()) for tau in counted)

    # -- artefact ----------------------------------------------------------------------------------------------------

    def state_for_artefact(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and a JSON-able configuration from which :meth:`from_artefact` rebuilds this model.

        Pruned task vectors are stored as values and index deltas (``.values``, ``.deltas``, ``.shape`` per expert).
        """
        tensors: dict[str, Tensor] = {}
        layers = {}
        for name, value in self.encoder.state_dict().items():
            if not any(name.startswith(f"{layer.name}.") for layer in self._layers()):
                tensors[f"encoder.{name}"] = value.detach().clone()
        for name, value in self.routers.state_dict().items():
            tensors[f"routers.{name}"] = value.detach().clone()
        sparse = self._options["prune_ratio"] > 0
        for layer in self._layers():
            experts = layer.stack.shape[0]
            layers[layer.name] = {"bias": layer.bias_stack is not None}
            tensors[f"stack.{layer.name}.weight.0"] = layer.stack.member(0).clone()
            if layer.bias_stack is not None:
                tensors[f"stack.{layer.name}.bias.0"] = layer.bias_stack[0].clone()
            for i in range(1, experts + 1):
                parts = {"weight": layer.stack.member(i)}
                if layer.bias_stack is not None:
                    parts["bias"] = layer.bias_stack[i]
                for kind, tau in parts.items():
                    key = f"stack.{layer.name}.{kind}.{i}"
                    if sparse:
                        tensors |= {f"{key}.{part}": value for part, value in pack_sparse(tau).items()}
                    else:
                        tensors[key] = tau.clone()
        config = {
            "method": "wemoe",
            "format": 1,
            **self._options,
            "routing": self.routing,
            "strategy": self.strategy,
            "sparse": sparse,
            "layers": layers,
        }
        return tensors, config

    @classmethod
    def from_artefact(
        cls, encoder: nn.Module, tensors: Mapping[str, Tensor], config: Mapping[str, Any]
    ) -> WeightEnsemblingMoE:
        """Inverse of :meth:`state_for_artefact`; ``encoder`` gives the architecture, its weights do not matter."""
        model = cls.__new__(cls)
        nn.Module.__init__(model)
        encoder = copy.deepcopy(encoder).requires_grad_(False)
        stacks: dict[str, tuple[Stack, Tensor | None]] = {}
        try:
            for name, layer in config["layers"].items():
                full = {}
                for kind in ("weight", "bias") if layer["bias"] else ("weight",):
                    key = f"stack.{name}.{kind}"
                    rows = [tensors[f"{key}.0"]]
                    for i in range(1, config["experts"] + 1):
                        if config["sparse"]:
                            packed = {part: tensors[f"{key}.{i}.{part}"] for part in ("values", "deltas", "shape")}
                            rows.append(unpack_sparse(packed).to(rows[0].device))
                        else:
                            rows.append(tensors[f"{key}.{i}"])
                    full[kind] = torch.stack(rows)
                stacks[name] = (store(full["weight"], config["strategy"]), full.get("bias"))
            options = {k: config[k] for k in ("experts", "scale", "router_layers", "prune_ratio", "shared_router")}
            rest = {k: config[k] for k in ("position_code", "seed", "routing", "strategy")}
            static = {k[len("encoder.") :]: v for k, v in tensors.items() if k.startswith("encoder.")}
            routers = {k[len("routers.") :]: v for k, v in tensors.items() if k.startswith("routers.")}
            missing = [
                k for k in encoder.state_dict() if k not in static and k.rpartition(".")[0] not in config["layers"]
            ]
            if missing:
                raise ManyoneError(f"the artefact has no tensor for {missing[0]!r} of the encoder")
            encoder.load_state_dict(static, strict=False)
            model._assemble(encoder, stacks, **options, **rest)
            model.routers.load_state_dict(routers)
        except KeyError as error:
            raise ManyoneError(f"the artefact is incomplete: {error.args[0]!r} is missing") from error
        return model

    def _layers(self) -> list[MixedLinear]:
        return [m for m in self.encoder.modules() if isinstance(m, MixedLinear)]

    def router(self, index: int) -> Router:
        """The router of block ``index``."""
        return self.routers[0 if len(self.routers) == 1 else index]  # type: ignore[return-value]


@contextmanager
def _without_forward_hooks(network: nn.Module) -> Iterator[None]:
    """Within the context, what others hang on the outputs of modules (surgery, recordings) does not see its passes."""
    hooks = [(module, module._forward_hooks) for module in network.modules() if module._forward_hooks]
    for module, found in hooks:
        module._forward_hooks = type(found)()
    try:
        yield
    finally:
        for module, found in hooks:
            module._forward_hooks = found
