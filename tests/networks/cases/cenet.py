from . import NetworkCase

CASE = NetworkCase(
    kwargs={"in_channels": 3, "out_channels": 2},
    parameters=29_003_382,
    in_shapes=((1, 3, 192, 192), (1, 3, 192, 224)),
    out_channels=2,
    illegal_shape=(1, 3, 200, 100),
    padding="224x192",
)
