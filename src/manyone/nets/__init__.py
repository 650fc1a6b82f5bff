"""Networks: encoders from inputs to features [n, d], with the parameter names that practitioners know."""

from manyone.nets.build import ENCODERS, build_encoder, call
from manyone.nets.efficientnet import EfficientNetLite0
from manyone.nets.mlp import Mlp
from manyone.nets.resmlp import ResMLP
from manyone.nets.vit import ViT

__all__ = ["ENCODERS", "EfficientNetLite0", "Mlp", "ResMLP", "ViT", "build_encoder", "call"]
