# /// script
# requires-python = ">=3.8,<3.12"
# dependencies = ["sentencepiece==0.1.99"]
# ///
"""Trains src/tiny/tokenizer.model: a Llama-like sentencepiece model of 512 pieces.

Run: python scripts/train_tiny_tokenizer.py src/tiny/tokenizer.model
The same version gives the same bytes, whose SHA-256 is checked before anything is written. The settings
are those of Llama's tokenizer (BPE, byte fallback, split digits, no normalisation) with a small vocabulary.
"""

import hashlib
import io
import sys

import sentencepiece

SHA256 = "6194f19e2259fc0a893ceb2ee17eff57936d28d2824928e9b890dc85a087d08e"

TEXT = """
The harbour lay quiet before the first boats came in, and the lamps on the stone wall were still lit.
A woman in a yellow coat was counting baskets of fish, and a small dog was counting the gulls.
What is the colour of the coat in this picture? The coat is yellow, and the baskets are brown.
Please describe the image in detail, and say how many people are standing near the water.
There are three people near the water: one of them is reading, the others are mending a net.
The sign above the door says that the shop is open from 9 in the morning to 5 in the afternoon.
Is there a clock in the picture? Yes, there is a clock on the tower, and it shows 10 minutes past 4.
The user asks a question, and the assistant gives a helpful, detailed and polite answer.
USER: How many windows does the house on the left have? ASSISTANT: The house on the left has 12 windows.
USER: What is written on the side of the red bus? ASSISTANT: The words are too small to be read with certainty.
When the tide turned, the water ran out between the posts, and the mud shone like the back of a spoon.
Somebody had painted the number 1234567890 on the hull, once in white and once again in black.
The children were walking along the wall with their arms out, as if the wall were a rope over a river.
It was raining in the mountains, but here the ground was dry and the wind smelled of salt and tar.
A train crossed the bridge; for a moment the whole valley was listening, and then it went on talking.
The old man explained that a net is mostly made of holes, and that the string only holds them together.
Large models are made of many small numbers, and each of those numbers was once a guess.
To make a number smaller, divide it by the largest in its row, then round it to the nearest whole one.
The weight of a thing is not its worth, but it is often the first thing that one is asked to carry.
In the market they were selling apples, onions, bread, candles, paper, rope, nails and honey.
The photograph shows a kitchen with a wooden table, two chairs, and a window that looks onto a garden.
On the table there are a bowl of fruit, a newspaper, a pair of glasses, and a half-empty cup of coffee.
The light comes from the right, so the shadows of the chairs fall on the left side of the room.
Which of these objects would break if it fell? The cup, the bowl and the glasses would probably break.
The second picture was taken at night: the street is wet, and the lights of the cars are reflected in it.
A cyclist is waiting at the corner, and behind him a tram with the number 16 is turning into the square.
Nothing in the text says where the town is, though the language on the signs suggests the north.
She wrote the letter slowly, crossing out every other word, until there was more ink than paper.
Because the road was closed, the drivers went around by the lake, which took them another hour.
After the storm the orchard was full of broken branches, and the air was full of bees.
"""


def main(path):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT.strip().splitlines()),
        model_writer=model,
        model_type="bpe",
        vocab_size=512,
        character_coverage=1.0,
        byte_fallback=True,
        split_digits=True,
        allow_whitespace_only_pieces=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=True,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=-1,
        num_threads=1,
        minloglevel=2,
    )
    found = hashlib.sha256(model.getvalue()).hexdigest()
    if found != SHA256:
        sys.exit(f"the model's SHA-256 is {found}, not {SHA256}")
    with open(path, "wb") as file:
        file.write(model.getvalue())


if __name__ == "__main__":
    main(sys.argv[1])
