"""NVFLARE's FedProx loss under fedsag's names."""

from nvflare.app_common.utils.fedprox_utils import get_fedprox_mu  # noqa: F401
from nvflare.app_opt.pt.fedproxloss import PTFedProxLoss  # noqa: F401
