from sb3_pgr.bcq.bcq import BCQ
from sb3_pgr.bcq.policies import MlpPolicy, MultiInputPolicy

__all__ = ["BCQ", "MlpPolicy", "MultiInputPolicy"]
