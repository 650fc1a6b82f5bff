"""The recipes of minimax: name -> where its options are, one line. Nothing is imported before it is asked for."""

from manyone.recipes.recipe import Recipe

RECIPES = {
    "local-sgda": Recipe("local_sgda:Options", "", "Local-SGDA: descent ascent on clients, a server averages", ""),
    "local-dsgda": Recipe("local_sgda:DecentralisedOptions", "", "Local-DSGDA: the same by gossip on a graph", ""),
    "stability": Recipe("stability:Options", "", "how stable Distributed-SGDA is: K, m, n, steps, topology", ""),
}
