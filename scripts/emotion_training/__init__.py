"""What train.py and evaluate.py share: the data set, its two tasks, training, scoring and model cards."""
