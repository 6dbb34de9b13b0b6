"""The Hessian and the gradient's factors of toys and of a trained classifier."""
