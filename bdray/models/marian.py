"""MarianMT (Junczys-Dowmunt et al. 2018): an encoder and a decoder of Transformers that translate, small by default, from a
configuration alone."""

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from bdray.models._language import Language
from bdray.packages import need
from bdray.samples import Outline, Rows
from bdray.spec import BadInput
from bdray.tokens import Mixed, Tokenize, Tokens, byte_pairs, tokens_in


class Marian(Language):
    """Built by `transformers`, weights drawn afresh: nothing is downloaded. One vocabulary of byte pairs for both languages,
    one embedding for both sides and the output. transformers' own defaults are width=1024, layers=12."""

    modality: ClassVar[str] = "translation"

    vocabulary: Annotated[int, Field(ge=16, le=1_000_000)] = 400
    """Tokens at the most, at least the 256 bytes and two."""

    def learn(self, texts: Sequence[str]) -> str:
        return byte_pairs(texts, self.vocabulary)

    def build(self, outline: Outline) -> nn.Module:
        heads = max(self.width // 64, 4)
        if self.width % heads:
            raise BadInput(f"{self.name}.width: got {self.width}, expected a multiple of its {heads} heads; change it")
        transformers = need("transformers")
        tokens = Tokenize(outline.vocabulary, self.length)
        config = transformers.MarianConfig(
            vocab_size=tokens_in(outline.vocabulary),
            d_model=self.width,
            encoder_layers=self.layers,
            decoder_layers=self.layers,
            encoder_attention_heads=heads,
            decoder_attention_heads=heads,
            encoder_ffn_dim=4 * self.width,
            decoder_ffn_dim=4 * self.width,
            max_position_embeddings=self.length + 1,
            scale_embedding=True,
            pad_token_id=tokens.pad,
            decoder_start_token_id=tokens.pad,
            eos_token_id=tokens.stop,
            forced_eos_token_id=None,
        )
        return Translator(tokens, transformers.MarianMTModel(config))


class Translator(nn.Module):
    """Texts and their translations to losses; texts to translations by `translate`."""

    def __init__(self, tokens: Tokenize, marian: Any) -> None:
        super().__init__()
        self.tokens, self.marian = tokens, marian

    def forward(self, inputs: Any, targets: Sequence[Rows] = ()) -> Tensor:
        """The loss of each text [N] for each of some translations, [len(targets), N]: the mean over its tokens, each of which
        is to be told from the true ones before it. Of two mixed texts the embeddings of the tokens are mixed."""
        return self.told(*self.read(inputs), targets)

    def told(self, embeddings: Tensor, mask: Tensor, targets: Sequence[Rows]) -> Tensor:
        """The same of what `read` gives."""
        known = self.marian.model.encoder(inputs_embeds=embeddings, attention_mask=mask.long())
        losses = [self._losses(known, mask, self.tokens(each.tolist())) for each in targets]
        return torch.stack(losses) if losses else embeddings.new_empty(0, len(mask))

    def read(self, inputs: Any) -> tuple[Tensor, Tensor]:
        """What the encoder takes: embeddings [N, L, width], and which of them are no padding, bool [N, L]."""
        if not isinstance(inputs, Mixed):
            read = self.tokens(inputs.tolist())
            return self.embed(read), read.mask
        own, other = self.tokens.pair(inputs.texts.tolist(), inputs.others.tolist())
        return torch.lerp(self.embed(other), self.embed(own), inputs.weight), own.mask | other.mask

    def embed(self, read: Tokens) -> Tensor:
        """The embeddings of the tokens alone, scaled as the encoder takes them."""
        encoder = self.marian.model.encoder
        found: Tensor = encoder.embed_tokens(read.numbers) * encoder.embed_scale
        return found

    def _losses(self, known: Any, mask: Tensor, wanted: Tokens) -> Tensor:
        start = wanted.numbers.new_full((len(wanted.numbers), 1), self.tokens.pad)
        said = self.marian(
            encoder_outputs=known,
            attention_mask=mask.long(),
            decoder_input_ids=torch.cat([start, wanted.numbers[:, :-1]], 1),
            use_cache=False,
        ).logits
        each = F.cross_entropy(said.flatten(0, 1).float(), wanted.numbers.flatten(), reduction="none").view(wanted.mask.shape)
        return (each * wanted.mask).sum(1) / wanted.mask.sum(1)

    def translate(self, inputs: Any) -> tuple[list[str], Tensor]:
        """The likeliest token after token, until the text ends or is as long as a text may be; and whether all likelihoods of
        a text were finite, bool [N]."""
        embeddings, mask = self.read(inputs)
        finite = torch.ones_like(mask[:, 0])

        def look(said: Tensor, likelihoods: Tensor) -> Tensor:
            finite.logical_and_(likelihoods.isfinite().all(1))
            return likelihoods

        said = self.marian.generate(
            encoder_outputs=self.marian.model.encoder(inputs_embeds=embeddings, attention_mask=mask.long()),
            attention_mask=mask.long(),
            num_beams=1,
            do_sample=False,
            max_new_tokens=self.tokens.length,
            logits_processor=[look],
        )
        return [self.tokens.text(each) for each in said[:, 1:].tolist()], finite
