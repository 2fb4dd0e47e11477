"""The store: finished work, found again by the recipe that made it.

Layout below the root (``SIMKIT_STORE``, ``--store``, or the user's cache folder):

    store.json                                      schema of the store
    embeddings/<extractor digest[:24]>/recipe.json  what made the features, for people
    embeddings/<extractor digest[:24]>/<content digest[:24]>.safetensors   ids uint8 (n, 32), x float32 (n, d); digest in the metadata
    gathered/<digest[:2]>/<digest>.safetensors      x float32 (n, d): rows of many shards in the order of one data set; may go at any time
    <kind>/<digest[:2]>/<digest>.json               cards, scores, transfer folds: recipe, value, digest
    <kind>/<digest[:2]>/<digest>.<suffix>           binary files such as checkpoints
    quarantine/...                                  damaged files that `simkit store verify --repair` set aside

Files are immutable and named by content or recipe, so there is no index to keep, readers need no lock and no write permission, two
writers at most do the same work twice, and a kill at any moment loses what was not yet written and nothing else. No file is a pickle.
"""

from simkit.store.care import Finding
from simkit.store.place import Store, default_root
from simkit.store.shelf import EmbeddingShelf

__all__ = ["ROWS_PER_SHARD", "EmbeddingShelf", "Finding", "Store", "default_root"]

ROWS_PER_SHARD = 4096
