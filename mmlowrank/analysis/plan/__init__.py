"""What a step of training needs, without a GPU: a plan of its memory."""
