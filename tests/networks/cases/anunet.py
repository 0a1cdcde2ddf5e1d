from . import NetworkCase

CASE = NetworkCase(
    kwargs={"out_channels": 2, "features": (4, 6, 8, 10, 12)},
    parameters=21_738,
    in_shapes=((1, 1, 32, 32), (1, 1, 32, 48)),
    out_channels=2,
    illegal_shape=(1, 1, 40, 17),
    padding="48x32",
)
