import sys

sys.path.insert(0, "src")
from words import count

assert count("") == 0
assert count("one  two\nthree") == 3
print("2 checks passed")
