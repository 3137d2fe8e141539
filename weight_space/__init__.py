"""Operations on weights: symmetries of a network, and new weights from those of several models."""
