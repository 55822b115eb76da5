"""Control theory of discrete-time linear systems, in float64 on plain tensors.

A ``Realization`` is the system; Gramians, Hankel singular values and balanced truncation are functions of
it. Bad input raises ValueError.

References: A. C. Antoulas, "Approximation of Large-Scale Dynamical Systems", SIAM 2005; A. J. Laub,
M. T. Heath, C. C. Paige, R. C. Ward, IEEE Trans. Autom. Control 32 (1987) 115-122; K. Glover, Int. J.
Control 39 (1984) 1115-1193; D. F. Enns, Proc. 23rd IEEE CDC (1984) 127-132; D. Hinrichsen,
A. J. Pritchard, Int. J. Control 51 (1990) 1091-1110 (discrete time); W. Gawronski, J.-N. Juang, Int. J.
Systems Sci. 21 (1990) 349-376 (finite horizon); S. J. Hammarling, IMA J. Numer. Anal. 2 (1982) 303-323;
I. Gohberg, T. Kailath, V. Olshevsky, Math. Comp. 64 (1995) 1557-1576; N. J. Higham, "Accuracy and
Stability of Numerical Algorithms", SIAM 2002.
"""

from compressm_cli.lti.balanced_truncation import BalancedTruncation, balanced_truncation, project
from compressm_cli.lti.balancing import Balancing, balance, balance_real_form, balance_realization
from compressm_cli.lti.gramian import (
    controllability_factor,
    controllability_gramian,
    observability_factor,
    observability_gramian,
)
from compressm_cli.lti.hankel import error_bound, hankel_singular_values, order_for_energy
from compressm_cli.lti.modal import Modes, count_states, leading_modes, one_of_each_pair
from compressm_cli.lti.real_form import (
    conjugate_half,
    from_real_coordinates,
    project_real_form,
    real_form,
    real_gramians,
)
from compressm_cli.lti.realization import MAX_EIGENVECTOR_CONDITION, Realization

__all__ = [
    "MAX_EIGENVECTOR_CONDITION",
    "BalancedTruncation",
    "Balancing",
    "Modes",
    "Realization",
    "balance",
    "balance_real_form",
    "balance_realization",
    "balanced_truncation",
    "conjugate_half",
    "controllability_factor",
    "controllability_gramian",
    "count_states",
    "error_bound",
    "from_real_coordinates",
    "hankel_singular_values",
    "leading_modes",
    "observability_factor",
    "observability_gramian",
    "one_of_each_pair",
    "order_for_energy",
    "project",
    "project_real_form",
    "real_form",
    "real_gramians",
]
