from . import NetworkCase

CASE = NetworkCase(
    kwargs={"out_channels": 2, "features": (8, 12, 16, 20)},
    parameters=119_078,
    in_shapes=((1, 1, 32, 32), (1, 1, 32, 48)),
    out_channels=2,
    illegal_shape=(1, 1, 40, 17),
    padding="48x32",
)
