{
  "targets": [
    {
      "target_name": "fd_pass",
      "sources": ["src/fd_pass.c"],
      "defines": ["NAPI_VERSION=8"],
      "cflags_c": ["-std=gnu11", "-O2", "-Wall", "-Wextra"]
    }
  ]
}
