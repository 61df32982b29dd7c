"""The demo world: a generator of raw video files with exact truth beside them."""

from omniloom.recipes.world.make import make_world
from omniloom.recipes.world.reel import make_reel
from omniloom.recipes.world.scene import Scene, compose

__all__ = ["Scene", "compose", "make_reel", "make_world"]
