"""BERT and MarianMT: what a batch is made of changes nothing, mixing has its two ends, losses and greedy words are those of
transformers itself."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bdray.models import Model
from bdray.samples import Outline, Rows
from bdray.spec import BadInput
from bdray.tokens import Mixed, Tokenize

TEXTS = ["a dog sees the red house", "no", "the child likes a brown cat and the big tree", "Anna says so"]
OTHERS = ["ein Hund", "das Haus ist groß und schön", "nein", "wir"]


def build(name: str, **fields: object) -> nn.Module:
    model = Model.of({"name": name, "width": 16, "layers": 1, "vocabulary": 300, **fields})
    outline = Outline(("a", "b", "c"), (), model.learn([*TEXTS, *OTHERS]))  # type: ignore[attr-defined]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return model.build(outline).eval()


@pytest.fixture(scope="module")
def bert() -> nn.Module:
    return build("bert")


@pytest.fixture(scope="module")
def marian() -> nn.Module:
    return build("marian")


def test_the_tokenizer_is_the_first_layer(bert: nn.Module, marian: nn.Module) -> None:
    assert all(isinstance(next(model.children()), Tokenize) for model in (bert, marian))


def test_texts_do_not_see_each_other(bert: nn.Module, marian: nn.Module) -> None:
    with torch.no_grad():
        together, targets = bert(Rows.of(TEXTS)), [Rows.of(OTHERS)]
        told = marian(Rows.of(TEXTS), targets)[0]
        for at, (text, other) in enumerate(zip(TEXTS, OTHERS, strict=True)):
            assert torch.allclose(bert(Rows.of([text])), together[at : at + 1], atol=1e-5)
            assert torch.allclose(marian(Rows.of([text]), [Rows.of([other])])[0], told[at], atol=1e-5)


@pytest.mark.parametrize("pooled", [True, False])
def test_mixing_has_its_two_ends(pooled: bool, bert: nn.Module, marian: nn.Module) -> None:
    texts, others = Rows.of(TEXTS), Rows.of(TEXTS[::-1])
    with torch.no_grad():
        if pooled:  # of embeddings, what is padding in one text alone is read
            for weight, end in ((1.0, texts), (0.0, others)):
                assert torch.allclose(bert(Mixed(texts, others, weight, pooled)), bert(end), atol=1e-5)
        same = bert(Mixed(texts, texts, 0.3, pooled))
        assert torch.allclose(same, bert(texts), atol=1e-5)
        halfway = bert(Mixed(texts, others, 0.5, pooled))
        assert not torch.allclose(halfway, bert(texts), atol=1e-4)
        told = marian(Mixed(texts, texts, 0.3, False), [Rows.of(OTHERS)])
        assert torch.allclose(told, marian(texts, [Rows.of(OTHERS)]), atol=1e-5)


def test_a_loss_is_that_of_transformers(marian: nn.Module) -> None:
    for text, other in zip(TEXTS, OTHERS, strict=True):
        read, wanted = marian.tokens([text]), marian.tokens([other])
        with torch.no_grad():
            expected = marian.marian(input_ids=read.numbers, labels=wanted.numbers).loss
            found = marian(Rows.of([text]), [Rows.of([other])])
        assert torch.allclose(found, expected, atol=1e-5)


def test_of_two_translations_each_has_its_loss(marian: nn.Module) -> None:
    texts, one, two = Rows.of(TEXTS), Rows.of(OTHERS), Rows.of(OTHERS[::-1])
    with torch.no_grad():
        both = marian(texts, [one, two])
        assert both.shape == (2, len(TEXTS))
        assert marian(texts).shape == (0, len(TEXTS))
        assert torch.allclose(both, torch.cat([marian(texts, [one]), marian(texts, [two])]), atol=1e-5)


def test_greedy_words_are_those_of_a_loop(marian: nn.Module) -> None:
    """A few steps of training first: an untrained model says one token for ever."""
    model = build("marian", length=12)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    for _ in range(30):
        optimizer.zero_grad()
        model(Rows.of(TEXTS), [Rows.of(OTHERS)]).mean().backward()
        optimizer.step()
    with torch.no_grad():
        said, finite = model.translate(Rows.of(TEXTS))
        assert finite.all()
        for text, found in zip(TEXTS, said, strict=True):
            numbers = [model.tokens.pad]
            while len(numbers) <= 12 and numbers[-1] != model.tokens.stop:
                read = model.tokens([text])
                out = model.marian(input_ids=read.numbers, decoder_input_ids=torch.tensor([numbers]), use_cache=False)
                numbers.append(int(out.logits[0, -1].argmax()))
            assert found == model.tokens.text(numbers[1:])
            assert len(numbers) <= 13
    assert len({*said}) > 1


def test_what_is_not_finite_is_told(marian: nn.Module) -> None:
    model = build("marian")
    with torch.no_grad():
        model.marian.model.encoder.layers[0].fc2.bias[0] = float("nan")
        assert not model.translate(Rows.of(TEXTS))[1].any()


def test_the_embeddings_are_where_a_text_is_continuous(bert: nn.Module, marian: nn.Module) -> None:
    with torch.no_grad():
        read = bert.tokens(TEXTS)
        assert torch.allclose(bert.classify(bert.embed(read), read.mask), bert(Rows.of(TEXTS)), atol=1e-6)
        soft, mask = marian.read(Rows.of(TEXTS))
        assert torch.equal(marian.told(soft, mask, [Rows.of(OTHERS)]), marian(Rows.of(TEXTS), [Rows.of(OTHERS)]))


def test_all_weights_learn(bert: nn.Module, marian: nn.Module) -> None:
    for model, loss in (
        (bert, F.cross_entropy(bert(Rows.of(TEXTS)), torch.tensor([0, 1, 2, 0]))),
        (marian, marian(Rows.of(TEXTS), [Rows.of(OTHERS)]).mean()),
    ):
        grads = torch.autograd.grad(loss, [p for p in model.parameters() if p.requires_grad], allow_unused=True)
        assert all(grad is not None and grad.isfinite().all() for grad in grads)


@pytest.mark.parametrize("name", ["bert", "marian"])
def test_a_width_that_heads_cannot_share_is_a_sentence(name: str) -> None:
    with pytest.raises(BadInput, match=rf"{name}.width: got 18, expected a multiple of its 4 heads"):
        build(name, width=18)
