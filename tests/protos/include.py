"""Print the folder that holds `google/rpc/status.proto`, for protoc's -I."""

from pathlib import Path

import google.rpc

if __name__ == "__main__":
    print(Path(next(iter(google.rpc.__path__))).parents[1])
