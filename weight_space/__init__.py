"""Operations on weights: symmetries of a network and evaluation of weight vectors."""
