"""temporary"""

import sys


def main():
    from blockzoo.tasks.cli import main as m

    return m(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
