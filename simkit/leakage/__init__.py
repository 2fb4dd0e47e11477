"""Images that two data sets, or two sides of a split, have in common: exact copies and near ones."""
