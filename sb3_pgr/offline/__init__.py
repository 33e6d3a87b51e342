"""Learning from recorded transitions."""

from sb3_pgr.offline.dataset import DatasetError, OfflineDataset
from sb3_pgr.offline.readers import load_dataset

__all__ = ["DatasetError", "OfflineDataset", "load_dataset"]
