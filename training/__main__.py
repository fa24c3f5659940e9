"""`python -m training`: run the recipe, or go on with it."""

from training.run import main

main()
