"""Tries of suffixes by nodes, with which drafts from arrays are compared."""


class Node:
    """A node of a trie: how many suffixes pass it, and its children in the order in which they came."""

    def __init__(self):
        self.count, self.children = 0, {}


def trie(texts):
    """The count trie of all suffixes of some texts, as deep as they are long."""
    root = Node()
    for text in texts:
        for start in range(len(text)):
            node = root
            for token in text[start:]:
                node = node.children.setdefault(token, Node())
                node.count += 1
    return root
