"""The recipes of teams: name -> options, builder, one line. Nothing is imported before it is asked for."""

from manyone.recipes.recipe import Recipe

NEEDS = "needs:needs"
RECIPES = {
    "commformer": Recipe(
        "options:CommFormerOptions", "build:commformer", "CommFormer: agents learn who listens to whom, and when"
    ),
    "commformer-fc": Recipe("options:FullOptions", "build:commformer_fc", "CommFormer(FC): everybody hears everybody"),
    "mat": Recipe("options:TransformerOptions", "build:mat", "MAT: a transformer decodes actions agent after agent"),
    "mat-dec": Recipe("options:EncoderOptions", "build:mat_dec", "MAT-dec: MAT's encoder, all actions at once"),
    "no-comm": Recipe("options:SilentOptions", "build:no_comm", "the same network, every agent alone"),
    "mappo": Recipe("options:CentralOptions", "build:mappo", "MAPPO: local actors, one central critic"),
    "ippo": Recipe("options:IndependentOptions", "build:ippo", "IPPO: local actors and critics"),
}
