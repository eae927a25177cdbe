"""What most of the time goes into: matrix products, and the closed-form block that is made of them."""

from ._block import SMOOTH, block
from ._products import add_matmul, matmul, product

__all__ = ["SMOOTH", "add_matmul", "block", "matmul", "product"]
