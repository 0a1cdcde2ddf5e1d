from . import NetworkCase

CASE = NetworkCase(
    kwargs={"in_channels": 1, "out_channels": 2},
    parameters=47_189,
    in_shapes=((1, 1, 21, 21), (1, 1, 23, 30)),
    out_channels=2,
    illegal_shape=None,
)
