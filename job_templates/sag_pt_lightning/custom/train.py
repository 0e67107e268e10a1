"""Train the PyTorch tutorial's network on CIFAR-10 with Lightning, as one client of a federation."""

import argparse
import logging
import sys
import warnings

import data

import fedsag_cli.client.lightning as flare
from fedsag_cli.client import partition

try:
    from lit_net import LitNet, pl
except ModuleNotFoundError as error:
    sys.exit(f"error: {error}")


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset_path", default=data.DATASET_PATH, help="the folder with CIFAR-10, see data.py")
    parser.add_argument("--batch_size", type=int, default=4)
    parser.add_argument("--num_workers", type=int, default=0, help="0 is fastest: the pictures are in memory")
    parser.add_argument("--local_epochs", type=int, default=2)
    parser.add_argument("--limit", type=int, default=0, help="use only so many pictures")
    parser.add_argument("--split", help="train on a part: iid, shards or dirichlet:ALPHA (default: on all data)")
    return parser.parse_args()


def quiet():
    """Lightning says much at every fit: its warnings stay, its advice goes."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", category=FutureWarning, module="lightning")
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*exists and is not empty.*")  # checkpoints of the round before


def main():
    args = parse_args()
    quiet()
    flare.init()
    site = flare.get_site_name()
    trainset, testset = data.load(args.dataset_path, limit=args.limit)
    if args.split:
        trainset = data.some(trainset, partition(trainset.labels, **data.way(args.split)))
    trainloader = data.Loader(trainset, args.batch_size, shuffle=True, num_workers=args.num_workers)
    testloader = data.Loader(testset, 500)
    model = LitNet()
    trainer = pl.Trainer(
        max_epochs=args.local_epochs,  # in each round
        devices=1,
        callbacks=[pl.callbacks.ModelCheckpoint(monitor="val_acc", mode="max")],
        logger=flare.ClientLogger(),  # what the module logs goes to the server, whose trackers keep it
        log_every_n_steps=min(50, len(trainloader)),
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    flare.patch(trainer)

    while flare.is_running():
        input_model = flare.receive()
        print(f"({site}) current_round={input_model.current_round}, total_rounds={input_model.total_rounds}")
        [received] = trainer.validate(model, testloader, verbose=False)
        print(f"({site}) the received model on the {len(testset)} test images: {received}")
        if flare.is_train():
            trainer.fit(model, trainloader, testloader)
            [local] = trainer.test(ckpt_path="best", dataloaders=testloader, verbose=False)
            print(f"({site}) this site's best so far: {local}")


if __name__ == "__main__":
    main()
