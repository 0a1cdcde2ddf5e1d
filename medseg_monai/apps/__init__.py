"""Programs of others that serve this project's bundles; each asks for an environment of its own."""
