"""LLaDA2.2's insertions and deletions written out, for one row."""

import numpy as np
from seen_cases import MASK, VOCAB, softmax

DELETE, SPLIT = VOCAB - 2, VOCAB - 3
TOKENS = {"mask_token": MASK, "delete_token": DELETE, "split_token": SPLIT}


class Levenshtein:
    """A row's block, and what is remembered of it, as lists."""

    def __init__(self, tokens, prompt, threshold, edit_threshold, passes, mask=MASK):
        self.tokens, self.prompt, self.threshold = list(tokens), prompt, threshold
        self.edit_threshold, self.passes = edit_threshold, passes
        self.mask = mask
        self.original = [token == self.mask for token in tokens]
        self.settled = self.steps = 0
        self.texts, self.tried, self.is_done = set(), {}, False

    def step(self, logits):
        """Takes a step with float[L, V] logits, in which the mask token is ruled out."""
        size = len(self.tokens)
        p = softmax(logits)
        proposed = logits.argmax(-1)
        sure = p[np.arange(size), proposed]
        masked = [i for i in range(self.prompt, size) if self.tokens[i] == self.mask]
        open_places = [i for i in masked if self.original[i]]
        self.steps += 1
        self.settled += not open_places
        is_spent = self.settled >= self.passes if self.passes else not open_places
        last = is_spent or self.steps > size + self.passes

        if last or not open_places:
            filled = masked
        else:
            needed = 1 + len(masked) - len(open_places)
            filled = [i for i in masked if sure[i] > self.threshold]
            if len(filled) < needed:
                filled = sorted(masked, key=lambda i: -sure[i])[:needed]
        if not self.passes and open_places and set(open_places) <= set(filled):
            last, filled = True, masked
        known = [i for i in range(self.prompt, size) if self.tokens[i] != self.mask]
        edits = [i for i in known if proposed[i] != self.tokens[i] and sure[i] > self.edit_threshold]
        writes = sorted({*filled, *edits})
        if not writes:
            self.is_done = True
            return
        if last:
            allowed = np.array(logits)
            allowed[:, [self.mask, DELETE, SPLIT]] = -np.inf
            for i in writes:
                if proposed[i] in (self.mask, DELETE, SPLIT):
                    proposed[i] = allowed[i].argmax()
        changes = [i for i in writes if proposed[i] != self.tokens[i]]
        if tuple(self.tokens) in self.texts and not last and changes:
            place = min(changes, key=lambda i: sure[i])
            untried = np.array(logits[place])
            untried[list(self.tried.get(place, ()))] = -np.inf
            proposed[place] = untried.argmax()
        self.texts.add(tuple(self.tokens))
        for i in writes:
            self.tried.setdefault(i, set()).add(int(proposed[i]))
        self._move({i: int(proposed[i]) for i in writes})
        self.is_done = last

    def _move(self, written):
        size = len(self.tokens)
        tokens, original = self.tokens[: self.prompt], self.original[: self.prompt]
        for i in range(self.prompt, size):
            token = written.get(i, self.tokens[i])
            if token == DELETE:
                continue
            if token == SPLIT:
                tokens, original = [*tokens, self.mask], [*original, False]
                token = self.tokens[i]
            tokens, original = [*tokens, token], [*original, self.original[i]]
        self.tokens = (tokens + [self.mask] * size)[:size]
        self.original = (original + [False] * size)[:size]
