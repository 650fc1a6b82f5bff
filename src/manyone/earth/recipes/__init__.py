"""The recipes of earth: name -> options, builder, one line. Nothing is imported before it is asked for."""

from manyone.recipes.recipe import Predict, Recipe

NEEDS = "needs:needs"
PREDICT = Predict("predict_arguments", "predict")
RECIPES = {
    "earth-bench": Recipe("options:BenchOptions", "", "encoders of satellite images, compared by the same protocols",
                          runner="run_bench"),
    "earth-embed": Recipe("options:EmbedOptions", "", "vectors of images, tile by tile: GeoParquet and npy",
                          runner="run_embed"),
    "earth-map": Recipe("options:MapOptions", "", "a class map of a scene from a few labels, with its confidence",
                        runner="run_map"),
    "earth-match": Recipe("options:MatchOptions", "", "which band of a sensor feeds which input of a model",
                          runner="run_match"),
}  # fmt: skip
