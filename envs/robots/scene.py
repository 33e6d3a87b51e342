"""The world that all tasks share: a floor, lights, a camera, and Panda arms from gym-hil's model files."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import mujoco

PHYSICS_DT = 0.002  # s


class Mount(NamedTuple):
    """
    Where an arm stands.

    :param prefix: of all its names in the model
    :param position: of its base, in metres
    :param yaw_quat: of its base ``(w, x, y, z)``
    :param gripper_quat: of its pinch point, pointing down
    """

    prefix: str
    position: tuple[float, float, float]
    yaw_quat: tuple[float, float, float, float]
    gripper_quat: tuple[float, float, float, float]


FACING_X = Mount("", (0, 0, 0), (1, 0, 0, 0), (0, 1, 0, 0))


def model_files() -> Path:
    """
    Folder of gym-hil's models of the Panda arm with the Robotiq 2F-85 gripper.

    :raises ModuleNotFoundError: saying what to install
    """
    found = importlib.util.find_spec("gym_hil")
    if found is None or not found.submodule_search_locations:
        raise ModuleNotFoundError("Robot tasks use gym-hil's robot models: pip install 'sb3_pgr[robots]'")
    return Path(next(iter(found.submodule_search_locations))) / "assets"


def table_top(mounts: Sequence[Mount], camera: str) -> mujoco.MjSpec:
    """
    A floor with arms on it.

    :param mounts: one for each arm
    :param camera: position and orientation of the camera ``front``, as attributes in MuJoCo's XML
    """
    spec = mujoco.MjSpec.from_string(f"""
        <mujoco>
          <option timestep="{PHYSICS_DT}" noslip_iterations="5" noslip_tolerance="0"/>
          <statistic center="0.4 0 0.3" extent="0.8"/>
          <visual>
            <headlight diffuse=".4 .4 .4" ambient=".5 .5 .5"/>
            <quality offsamples="0" shadowsize="0"/>
            <global offwidth="640" offheight="480"/>
          </visual>
          <asset>
            <texture name="grid" type="2d" builtin="checker" width="512" height="512" rgb1=".1 .2 .3" rgb2=".2 .3 .4"/>
            <material name="grid" texture="grid" texrepeat="2 2" texuniform="true"/>
          </asset>
          <worldbody>
            <camera name="front" {camera} fovy="45"/>
            <light pos="0 0 3" dir="0 0 -1" diffuse="1 1 1" specular=".3 .3 .3"/>
            <geom name="floor" size="3 3 0.01" type="plane" material="grid"/>
          </worldbody>
        </mujoco>""")
    for mount in mounts:
        arm = mujoco.MjSpec.from_file(str(model_files() / "panda.xml"))
        spec.attach(arm, frame=spec.worldbody.add_frame(pos=mount.position, quat=mount.yaw_quat), prefix=mount.prefix)
    return spec


def add_box(
    spec: mujoco.MjSpec,
    name: str,
    position: Sequence[float],
    half_sizes: Sequence[float],
    rgba: Sequence[float],
    mass: float | None = 0.1,
) -> None:
    """
    A box that can be moved, or a mark that nothing collides with.

    :param half_sizes: in metres
    :param mass: in kilograms; None makes it a mark
    """
    body = spec.worldbody.add_body(name=name, pos=position)
    geom = body.add_geom(name=name, type=mujoco.mjtGeom.mjGEOM_BOX, size=half_sizes, rgba=rgba)
    if mass is None:
        body.mocap = True
        geom.contype = geom.conaffinity = 0
    else:
        body.add_freejoint(name=name)
        geom.mass = mass
