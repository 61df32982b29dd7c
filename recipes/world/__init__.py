"""The demo world: a generator of raw video files with exact truth beside them."""
