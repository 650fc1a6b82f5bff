"""The recipes of teams: name -> where its options are, one line. Nothing is imported before it is asked for."""

from manyone.recipes.recipe import Recipe

RECIPES = {
    "commformer": Recipe("commformer:Options", "", "CommFormer: agents learn who listens to whom, and when", ""),
    "commformer-fc": Recipe("commformer:FullOptions", "", "CommFormer(FC): everybody hears everybody", ""),
    "mat": Recipe("baselines:TransformerOptions", "", "MAT: a transformer decodes actions agent after agent", ""),
    "mat-dec": Recipe("baselines:EncoderOptions", "", "MAT-dec: MAT's encoder, all actions at once", ""),
    "no-comm": Recipe("baselines:SilentOptions", "", "the same network, every agent alone", ""),
    "mappo": Recipe("baselines:CentralOptions", "", "MAPPO: local actors, one central critic", ""),
    "ippo": Recipe("baselines:IndependentOptions", "", "IPPO: local actors and critics", ""),
}
