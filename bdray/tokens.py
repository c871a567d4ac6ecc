"""Tokens: a model of texts takes texts, and its first layer makes numbers of them. Vocabularies are trained on the training
set, and are the same wherever they are trained on the same texts."""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from bdray.packages import need
from bdray.samples import Rows
from bdray.spec import BadInput


class Mixed(NamedTuple):
    """Two batches of texts, of which a model mixes what it makes of them: `weight` of the first, the rest of the second."""

    texts: Rows
    others: Rows
    weight: float
    pooled: bool
    """Whether what the model knows of each text is mixed, or the embeddings of the words."""

    def to(self, device: torch.device) -> "Mixed":
        """Themselves, as `Rows`."""
        return self


class Tokens(NamedTuple):
    """Texts as numbers: token numbers int64 [N, L], and which of them are no padding, bool [N, L]."""

    numbers: Tensor
    mask: Tensor


class Tokenize(nn.Module):
    """Texts to token numbers on the device of the model, cut to `length` tokens, special ones included, and padded to the
    longest of them. Its vocabulary is a part of the model's state, so that a stored model reads as it did when it was
    trained."""

    device: Tensor

    def __init__(self, vocabulary: str, length: int) -> None:
        super().__init__()
        self.length = length
        self.register_buffer("device", torch.zeros(()), persistent=False)
        self.tokenizer: Any = need("tokenizers").Tokenizer.from_str(vocabulary)

    def forward(self, texts: Sequence[str]) -> Tokens:
        return self.padded([self.tokenizer.encode(text).ids for text in texts])

    def padded(self, numbers: list[list[int]], length: int = 0) -> Tokens:
        """Token numbers of each text, of at least `length` columns. A text that is cut keeps its last token, which ends it."""
        cut = [each if len(each) <= self.length else [*each[: self.length - 1], each[-1]] for each in numbers]
        longest = max([length, 1, *map(len, cut)])
        pad = self.pad
        found = torch.tensor([each + [pad] * (longest - len(each)) for each in cut], dtype=torch.int64).view(-1, longest)
        sizes = torch.tensor([len(each) for each in cut])
        mask = torch.arange(longest)[None] < sizes[:, None]
        return Tokens(found.to(self.device.device), mask.to(self.device.device))

    def pair(self, texts: Sequence[str], others: Sequence[str]) -> tuple[Tokens, Tokens]:
        """Two batches of texts, padded to one length."""
        numbers = [[self.tokenizer.encode(text).ids for text in each] for each in (texts, others)]
        longest = min(self.length, max(len(each) for batch in numbers for each in batch))
        return self.padded(numbers[0], longest), self.padded(numbers[1], longest)

    def text(self, numbers: list[int]) -> str:
        """The text of token numbers, without special ones."""
        found: str = self.tokenizer.decode(numbers, skip_special_tokens=True)
        return found

    def words(self, read: Tokens) -> Tensor:
        """Which tokens are of words, bool [N, L]: neither padding nor special ones, but for that of unknown words."""
        special = [self.tokenizer.token_to_id(token) for token in (PAD, START, STOP)]
        known = torch.tensor([number for number in special if number is not None], device=read.numbers.device)
        return read.mask & ~torch.isin(read.numbers, known)

    @property
    def pad(self) -> int:
        """The number of the padding, the first special token."""
        found: int = self.tokenizer.token_to_id(PAD)
        return found

    @property
    def stop(self) -> int:
        """The number of the token that ends a text."""
        found: int = self.tokenizer.token_to_id(STOP)
        return found

    def get_extra_state(self) -> Tensor:
        """The vocabulary, uint8 [bytes]."""
        return torch.frombuffer(bytearray(self.tokenizer.to_str().encode()), dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        self.tokenizer = need("tokenizers").Tokenizer.from_str(bytes(state.tolist()).decode())


PAD, UNKNOWN, START, STOP = "[PAD]", "[UNK]", "[CLS]", "[SEP]"


def wordpieces(texts: Sequence[str], size: int) -> str:
    """A vocabulary of at most `size` word pieces (Schuster and Nakajima 2012) of texts in lower case, with BERT's special
    tokens, as the JSON of a tokenizer. Raises BadInput where the letters of the texts alone are more."""
    tokenizers = need("tokenizers")
    special = [PAD, UNKNOWN, START, STOP]
    trained = _bert_like(tokenizers, {token: number for number, token in enumerate(special)})
    letters = sorted({letter for text in texts for word, _ in _words(trained, text) for letter in word})
    # The trainer numbers the letters inside of words in the order of a hash table, another one in each process, and breaks ties
    # by these numbers: so they are all given.
    given = [*special, *letters, *(f"##{letter}" for letter in letters)]
    _check_size(size, len(given), "the letters of these texts and the special tokens")
    trainer = tokenizers.trainers.WordPieceTrainer(vocab_size=size, special_tokens=given, show_progress=False)
    trained.train_from_iterator(texts, trainer)
    found: str = _bert_like(tokenizers, trained.get_vocab()).to_str()
    return found


def _bert_like(tokenizers: Any, vocabulary: dict[str, int]) -> Any:
    found = tokenizers.Tokenizer(tokenizers.models.WordPiece(vocabulary, unk_token=UNKNOWN))
    found.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=True)
    found.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    found.decoder = tokenizers.decoders.WordPiece()
    found.add_special_tokens([PAD, UNKNOWN, START, STOP])
    found.post_processor = tokenizers.processors.TemplateProcessing(
        single=f"{START} $A {STOP}", special_tokens=[(START, vocabulary[START]), (STOP, vocabulary[STOP])]
    )
    return found


def _words(tokenizer: Any, text: str) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = tokenizer.pre_tokenizer.pre_tokenize_str(tokenizer.normalizer.normalize_str(text))
    return found


def byte_pairs(texts: Sequence[str], size: int) -> str:
    """A vocabulary of at most `size` pairs of bytes (Sennrich et al. 2016, on bytes as in GPT-2), so that every text is made of
    them and comes back letter by letter; as the JSON of a tokenizer. Raises BadInput for fewer than all bytes."""
    tokenizers = need("tokenizers")
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    _check_size(size, len(alphabet) + 2, "the bytes and the special tokens")
    trained = tokenizers.Tokenizer(tokenizers.models.BPE())
    trained.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trained.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=size, special_tokens=[PAD, STOP], initial_alphabet=alphabet, show_progress=False
    )
    trained.train_from_iterator(texts, trainer)
    trained.post_processor = tokenizers.processors.TemplateProcessing(
        single=f"$A {STOP}", special_tokens=[(STOP, trained.token_to_id(STOP))]
    )
    found: str = trained.to_str()
    return found


def tokens_in(vocabulary: str) -> int:
    """How many tokens a vocabulary has, special ones included."""
    found = json.loads(vocabulary)
    return len({*found["model"]["vocab"], *(added["content"] for added in found["added_tokens"])})


def _check_size(size: int, least: int, what: str) -> None:
    if size < least:
        raise BadInput(f"task.model.vocabulary: got {size} tokens, but {what} alone are {least}; raise it")
