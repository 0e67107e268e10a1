"""Train a LoRA adapter of a small language model with Hugging Face's Trainer, as one client of a federation."""

import argparse

import model
import text
from transformers import Trainer, TrainingArguments

import fedsag_cli.client.hf as flare


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--local_steps", type=int, default=30, help="steps of the optimizer in each round")
    parser.add_argument("--lr", type=float, default=0.01)
    return parser.parse_args()


def main():
    args = parse_args()
    flare.init()
    site = flare.site()
    topic, trainset, testset = text.of_site(site.index, model.BLOCK)
    print(f"({site.name}) topic {topic!r}: {len(trainset)} blocks to train on, {len(testset)} to measure on")
    trainer = Trainer(
        model.with_adapter(flare.shared(model.base)),  # all clients have one base model in memory
        TrainingArguments(
            output_dir="trainer",
            max_steps=args.local_steps,  # in each round
            per_device_train_batch_size=args.batch_size,
            per_device_eval_batch_size=64,
            learning_rate=args.lr,
            logging_steps=10,
            save_strategy="no",
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
        ),
        train_dataset=trainset,
        eval_dataset=testset,
    )
    flare.patch(trainer, stream_metrics=True)
    while flare.is_running():
        trainer.evaluate()
        trainer.train()


if __name__ == "__main__":
    main()
