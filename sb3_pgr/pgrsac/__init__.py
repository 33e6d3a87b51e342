from sb3_pgr.pgrsac.pgrsac import PGRSAC
from sb3_pgr.pgrsac.policies import MlpPolicy, MultiInputPolicy, SimbaPolicy

__all__ = ["PGRSAC", "MlpPolicy", "MultiInputPolicy", "SimbaPolicy"]
