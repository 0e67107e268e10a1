"""The tutorial's network as a LightningModule: what a step of training and of validation is, and the optimizer."""

import torch.nn.functional as F  # noqa: N812 - everyone's name for it
import torch.optim as optim
from net import Net

try:
    import lightning.pytorch as pl
except ModuleNotFoundError as error:
    if error.name and error.name.partition(".")[0] != "lightning":
        raise
    raise ModuleNotFoundError("Lightning is not installed: pip install 'fedsag[lightning]'") from None


class LitNet(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.model = Net()

    def forward(self, images):
        return self.model(images)

    def training_step(self, batch):
        images, labels = batch
        loss = F.cross_entropy(self(images), labels)
        self.log("train_loss", loss, batch_size=len(labels))
        return loss

    def validation_step(self, batch):
        self._measure("val", batch)

    def test_step(self, batch):
        self._measure("test", batch)

    def configure_optimizers(self):
        return optim.SGD(self.parameters(), lr=0.001, momentum=0.9)

    def _measure(self, what, batch):
        images, labels = batch
        logits = self(images)
        accuracy = (logits.argmax(1) == labels).float().mean()
        self.log_dict(
            {f"{what}_loss": F.cross_entropy(logits, labels), f"{what}_acc": accuracy}, batch_size=len(labels)
        )
