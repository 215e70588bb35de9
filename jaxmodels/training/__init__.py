"""Training language models from local text: data, loss, train step, exact resume, evaluation."""
