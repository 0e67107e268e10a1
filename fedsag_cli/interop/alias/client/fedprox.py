"""NVFLARE's part in FedProx under the names of fedsag's."""

from nvflare.app_common.utils.fedprox_utils import get_fedprox_mu  # noqa: F401
from nvflare.app_opt.pt.fedproxloss import PTFedProxLoss  # noqa: F401
