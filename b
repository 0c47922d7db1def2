2026-11-25 13:11:45,263 INFO 1.0.1 is installed, asking http://127.0.0.1:39945/check
2026-11-25 13:11:45,283 INFO 1.0.1 is up to date
2026-11-25 13:11:45,284 INFO starting run
