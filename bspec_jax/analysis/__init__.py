"""Analysis of any sum of branches: specialization, gradient factors, the Hessian."""
