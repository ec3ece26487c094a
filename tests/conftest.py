"""What all tests share. The library never switches double precision on; the tests do, here and nowhere else."""

import jax

jax.config.update("jax_enable_x64", True)
