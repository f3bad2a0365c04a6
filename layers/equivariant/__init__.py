"""Layers whose outputs turn with their inputs, for atoms and other points in space.

Features have shape (N, (l_max + 1)², channels), with the degrees l in e3nn's order.

| file | contents |
| --- | --- |
| `cartesian_tensor` | symmetric 3 x 3 tensors as irreducible parts, and back |
| `constants` | constants of a module that stay exact when its type changes |
| `coupling` | Clebsch-Gordan and Gaunt tensors |
| `cp_factors`, `cp_fit` | Clebsch-Gordan tensors as sums of rank-one terms: the shipped ones, and how they are fitted |
| `derivatives` | an energy and its gradient, in every mode that a model runs in |
| `edge_attention` | attention over the edges of a graph, for large graphs a part at a time |
| `edge_product` | products of features with the harmonics of an edge |
| `irreps` | linear map, norms, gate and activation |
| `neighbors` | pairs of atoms within a cutoff, with periodic images |
| `radial` | functions of a distance: bases, cutoff envelope, the MLP that makes weights of them |
| `segment` | sums and softmax over the edges that arrive at each node |
| `spherical_harmonics` | real spherical harmonics |
| `spherical_power` | powers of functions on the sphere, for many-body features |
| `tensor_product` | exact and low-rank products of two features |
"""
