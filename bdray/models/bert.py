"""BERT (Devlin et al. 2019): an encoder of Transformers for classifying texts, small by default, from a configuration alone."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from bdray.models._language import Language
from bdray.packages import need
from bdray.samples import Outline
from bdray.spec import BadInput
from bdray.tokens import Mixed, Tokenize, Tokens, tokens_in, wordpieces


class Bert(Language):
    """Built by `transformers`, weights drawn afresh: nothing is downloaded. BERT-base is width=768, layers=12,
    vocabulary=30522, length=512."""

    modality: ClassVar[str] = "text"

    def learn(self, texts: Sequence[str]) -> str:
        return wordpieces(texts, self.vocabulary)

    def build(self, outline: Outline) -> nn.Module:
        heads = max(self.width // 64, 4)
        if self.width % heads:
            raise BadInput(f"{self.name}.width: got {self.width}, expected a multiple of its {heads} heads; change it")
        transformers = need("transformers")
        config = transformers.BertConfig(
            vocab_size=tokens_in(outline.vocabulary),
            hidden_size=self.width,
            num_hidden_layers=self.layers,
            num_attention_heads=heads,
            intermediate_size=4 * self.width,
            max_position_embeddings=self.length,
        )
        tokens = Tokenize(outline.vocabulary, self.length)
        return Classifier(tokens, transformers.BertModel(config), nn.Linear(self.width, len(outline.classes)))


class Classifier(nn.Module):
    """Texts, `Rows` of them or two mixed ones, to logits [N, classes]."""

    def __init__(self, tokens: Tokenize, bert: Any, head: nn.Linear) -> None:
        super().__init__()
        self.tokens, self.bert, self.head = tokens, bert, head
        self.dropout = nn.Dropout(bert.config.hidden_dropout_prob)

    def forward(self, inputs: Any) -> Tensor:
        """Of mixed texts it mixes the pooled representations (Mixup-Transformer, Sun et al. 2020) or the words' embeddings."""
        if not isinstance(inputs, Mixed):
            read = self.tokens(inputs.tolist())
            return self.classify(self.embed(read), read.mask)
        own, other = self.tokens.pair(inputs.texts.tolist(), inputs.others.tolist())
        if inputs.pooled:
            known, others = (self.pool(self.embed(read), read.mask) for read in (own, other))
            return self.judge(torch.lerp(others, known, inputs.weight))
        return self.classify(torch.lerp(self.embed(other), self.embed(own), inputs.weight), own.mask | other.mask)

    def embed(self, read: Tokens) -> Tensor:
        """The embeddings of the tokens alone, [N, L, width], without their places."""
        found: Tensor = self.bert.embeddings.word_embeddings(read.numbers)
        return found

    def classify(self, embeddings: Tensor, mask: Tensor) -> Tensor:
        """The rest of the model."""
        return self.judge(self.pool(embeddings, mask))

    def pool(self, embeddings: Tensor, mask: Tensor) -> Tensor:
        """What is known of each text, [N, width]."""
        found: Tensor = self.bert(inputs_embeds=embeddings, attention_mask=mask.long()).pooler_output
        return found

    def judge(self, pooled: Tensor) -> Tensor:
        """Logits."""
        found: Tensor = self.head(self.dropout(pooled))
        return found
