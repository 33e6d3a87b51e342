from sb3_pgr.hybrid_sac.hybrid_sac import HybridSAC
from sb3_pgr.hybrid_sac.policies import CnnPolicy, MlpPolicy, MultiInputPolicy

__all__ = ["CnnPolicy", "HybridSAC", "MlpPolicy", "MultiInputPolicy"]
