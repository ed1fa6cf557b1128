"""Programs that try to get out of a sandbox, to harm what is outside, or to take more than their share.

In them stand `{secret}`, a file with a secret; `{made}`, a file that is not there; `{port}`, where a server listens;
`{victim}`, a process of the same user; `TOKEN`, a variable of the environment that holds the secret, too.
"""

FILES = {
    "read": "ans = open({secret!r}).read()",
    "read bytes": "import os\nans = os.read(os.open({secret!r}, os.O_RDONLY), 100)",
    "read by a path": "from pathlib import Path\nans = Path({secret!r}).read_text()",
    "read upwards": "ans = open('../' * 20 + {secret!r}[1:]).read()",
    "read through proc": "ans = open('/proc/self/root' + {secret!r}).read()",
    "read through the worker": "ans = open('/proc/1/root' + {secret!r}).read()",
    "read lines": "import linecache\nans = linecache.getline({secret!r}, 1)",
    "read by an import hook": "from importlib.machinery import SourceFileLoader as S\n"
    "ans = S('x', '').get_data({secret!r})",
    "read by the loader": "ans = __loader__.get_data({secret!r})",
    "read by the kernel": "import ctypes\nlibc = ctypes.CDLL(None)\nans = libc.open({secret!r}.encode(), 0)\n"
    "ans = 1 / 0 if ans < 0 else open(ans).read()",
    "read what is open": "import os\nans = ''\nfor i in range(64):\n    try:\n        ans += os.read(i, 100).decode()\n"
    "    except OSError:\n        pass",
    "list": "import os\nans = os.listdir(os.path.dirname({secret!r}))",
    "walk": "import os\nans = [f for _, _, fs in os.walk('/') for f in fs if 'secret' in f and 'py' not in f] or 1 / 0",
    "write": "open({made!r}, 'w').write('x')\nans = 1",
    "append to the secret": "open({secret!r}, 'a').write('x')\nans = 1",
    "touch": "from pathlib import Path\nPath({made!r}).touch()\nans = 1",
    "make a directory": "import os\nos.makedirs({made!r})\nans = 1",
    "rename": "import os\nos.rename({secret!r}, {made!r})\nans = 1",
    "remove": "import os\nos.remove({secret!r})\nans = 1",
    "remove all": "import shutil\nshutil.rmtree('/')\nans = 1",
    "link": "import os\nos.symlink({secret!r}, {made!r})\nans = 1",
    "change modes": "import os\nos.chmod({secret!r}, 0)\nans = 1",
    "a database": "import sqlite3\nsqlite3.connect({made!r}).execute('create table t (a)')\nans = 1",
    "a temporary file": "import tempfile\nans = tempfile.NamedTemporaryFile(delete=False).name",
    "spoil a library": "import sympy, os\nopen(os.path.dirname(sympy.__file__) + '/x', 'w')\nans = 1",
    "leave the root": "import os\nos.chroot('.')\nans = 1",
    "a device": "import os\nos.mknod({made!r}, 0o600, 259)\nans = 1",
}
SOCKETS = {
    "connect": "import socket\nsocket.create_connection(('127.0.0.1', {port}))\nans = 1",
    "a datagram": "import socket\nsocket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', {port}))\nans = 1",
    "a local socket": "import socket\nsocket.socket(socket.AF_UNIX).connect('\\0pairwright-escape')\nans = 1",
    "fetch": "import urllib.request\nans = urllib.request.urlopen('http://127.0.0.1:{port}').read()",
    "listen": "import socket\nsocket.socket().bind(('0.0.0.0', 0))\nans = 1",
    "the kernel": "import ctypes\nans = 1 / 0 if ctypes.CDLL(None).socket(2, 1, 0) < 0 else 1",
    "a raw module": "import _socket\n_socket.socket()\nans = 1",
}
PROCESSES = {
    "system": "import os\nans = 1 / 0 if os.system('touch {made}') else 1",
    "popen": "import os\nans = os.popen('cat {secret}').read() or 1 / 0",
    "subprocess": "import subprocess\nans = subprocess.run(['cat', {secret!r}], capture_output=True).stdout",
    "execute": "import os\nos.execv('/bin/sh', ['sh', '-c', 'touch {made}'])",
    "spawn": "import os\nos.posix_spawn('/bin/touch', ['touch', {made!r}], {{}})\nans = 1",
    "fork": "import os\nos.fork()\nans = 1",
    "fork bomb": "import os\nwhile True:\n    os.fork()",
    "persistent fork bomb": "import os\nwhile True:\n    try:\n        os.fork()\n"
    "    except BaseException:\n        pass",
    "thread bomb": "import threading\nwhile True:\n    threading.Thread(target=lambda: 1).start()",
    "multiprocessing": "import multiprocessing\nmultiprocessing.Process(target=print).start()\nans = 1",
    "kill": "import os\nos.kill({victim}, 9)\nans = 1",
    "kill all": "import os\nos.kill(-1, 9)\nans = 1",
    "kill the worker": "import os\nos.kill(os.getppid(), 9)\nos.kill(1, 9)\nans = 1",
    "kill the group": "import os\nos.killpg(0, 9)\nans = 1",
    "leave the group": "import os\nos.setsid()\nans = 1",
    "trace": "import ctypes\nans = 1 / 0 if ctypes.CDLL(None).ptrace(16, 1, 0, 0) < 0 else 1",
    "read another's memory": "ans = open('/proc/1/mem', 'rb').read(1)",
    "namespaces": "import ctypes\nans = 1 / 0 if ctypes.CDLL(None).unshare(0x10000000) < 0 else 1",
    "become root": "import os\nos.setuid(0)\nans = 1",
    "raise limits": "import resource\nresource.setrlimit(resource.RLIMIT_CPU, (-1, -1))\nans = 1",
    "lower its niceness": "import os\nos.nice(-20)\nans = 1",
}
SECRETS = {
    "environment": "import os\nans = os.environ['TOKEN']",
    "getenv": "import os\nans = os.getenv('TOKEN') or 1 / 0",
    "the kernel's environment": "ans = open('/proc/self/environ').read()",
    "the worker's environment": "ans = open('/proc/1/environ').read()",
    "the library's environment": "import ctypes\n"
    "env = ctypes.POINTER(ctypes.c_char_p).in_dll(ctypes.CDLL(None), 'environ')\n"
    "ans, i = '', 0\nwhile env and env[i]:\n    ans += str(env[i])\n    i += 1",
    "the stack": "import ctypes\nx = ctypes.c_char_p.in_dll(ctypes.CDLL(None), 'program_invocation_name')\n"
    "ans = str(ctypes.string_at(ctypes.cast(x, ctypes.c_void_p).value, 3000))",
    "arguments": "import sys\nans = str([a for a in sys.argv if 'secret' in a]) * 0 or 1 / 0",
    "objects": "import gc\nfound = [str(o) for o in gc.get_objects() if type(o) is dict and 'TOKEN' in o]\n"
    "ans = found or 1 / 0",
}
ATTRIBUTES = {
    "subclasses": "for c in ().__class__.__base__.__subclasses__():\n    if c.__name__ == '_wrap_close':\n"
    "        c.__init__.__globals__['system']('touch {made}')\nans = 1",
    "globals of a function": "import math\ndef f():\n    pass\nans = f.__globals__['__builtins__']\n"
    "g = ans['open'] if isinstance(ans, dict) else ans.open\ng({made!r}, 'w')",
    "frames": "import sys\nf = sys._getframe()\nwhile f.f_back:\n    f = f.f_back\n"
    "f.f_globals['os'].system('touch {made}')\nans = 1",
    "a traceback": "try:\n    1 / 0\nexcept Exception as e:\n    t = e.__traceback__.tb_frame.f_back\n"
    "    t.f_globals['os'].open({made!r}, 65)\nans = 1",
    "builtins": "__builtins__.__import__('os').system('touch {made}')\nans = 1",
    "eval": "eval(\"__import__('os').system('touch {made}')\")\nans = 1",
    "exec of bytes": "import types\nc = compile(\"open({made!r}, 'w')\", 'x', 'eval')\nans = eval(c)",
    "format": "ans = '{{0.__class__.__init__.__globals__}}'.format(print)",
    "a metaclass": "class M(type):\n    def __str__(cls):\n        return str(open({made!r}, 'w'))\n"
    "class A(metaclass=M):\n    pass\nans = A",
    "a lying value": "class A(int):\n    def __str__(self):\n        return str(open({made!r}, 'w'))\nans = A(3)",
    "a lying error": "class E(Exception):\n    def __str__(self):\n        while True:\n            pass\nraise E",
    "an error that fails": "class E(Exception):\n    def __str__(self):\n        raise self\nraise E",
    "a borrowed name": "str = type = len = print = None\nans = 1 / 0",
    "spoilt modules": "import json, os\njson.dumps = os.write = os._exit = None\nans = 1 / 0",
    "memory": "import ctypes\nctypes.memset(id(int), 0, 64)\nans = int('3') + 1",
}
PICKLES = {
    "load": "import os, pickle\nclass A:\n    def __reduce__(self):\n        return os.system, ('touch {made}',)\n"
    "ans = pickle.loads(pickle.dumps(A()))",
    "return": "class A:\n    def __reduce__(self):\n        return open, ({made!r}, 'w')\nans = A()",
    "marshal": "import marshal\ncode = compile(\"open({made!r}, 'w')\", 'x', 'exec')\n"
    "exec(marshal.loads(marshal.dumps(code)))\nans = 1",
    "a raw pickle": "import pickle\nans = pickle.loads(b\"cos\\nsystem\\n(S'touch {made}'\\ntR.\")",
}
REPLIES = {
    "no JSON": "import os\nos.write(3, b'nonsense')\nos._exit(0)",
    "another shape": "import os\nos.write(3, b'{{\"value\": 1}}')\nos._exit(0)",
    "wrong types": "import os\nos.write(3, b'[1, 2, 3, 4, 5]')\nos._exit(0)",
    "too deep": "import os\nos.write(3, b'[' * 60000)\nos._exit(0)",
    "a second reply": 'import os\nos.write(3, b\'["1", "int", "", null, false]\')\nans = 2',
    "no reply": "import os\nos._exit(0)",
    "closed": "import os\nos.close(3)\nans = 1",
    "closed and busy": "import os\nos.close(3)\nwhile True:\n    pass",
    "a flood": "import os\nwhile True:\n    os.write(3, b'x' * 60000)",
}
"""Of CPython alone: its reply goes through a descriptor that a program can write to."""
GREEDY = {
    "a loop": ("while True:\n    pass", "limit of time"),
    "a long sum": ("ans = sum(range(10**12))", "limit of time"),
    "a loop that catches": (
        "while True:\n    try:\n        while True:\n            pass\n    except BaseException:\n        pass",
        "limit of time",
    ),
    "a slow pattern": ("import re\nre.match('(a+)+$', 'a' * 40 + 'b')", None),
    "an endless iterator": ("import itertools\nans = list(itertools.count())", None),
    "a huge list": ("ans = [0] * 10**10", "limit of memory"),
    "a huge text": ("ans = 'a' * 10**10", "limit of memory"),
    "doubling": ("x = [1]\nwhile True:\n    x = x + x", None),
    "doubling text": ("x = 'ab'\nwhile True:\n    x = x + x", None),
    "doubling that catches": (
        "x = [1]\nwhile True:\n    try:\n        x = x + x\n    except BaseException:\n        pass", None
    ),
    "recursion": ("def f(n):\n    return f(n + 1)\nans = f(0)", "RecursionError"),
    "a deep value": ("x = []\nfor i in range(100000):\n    x = [x]\nans = x", None),
    "a deep comparison": ("x, y = [], []\nfor i in range(100000):\n    x, y = [x], [y]\nans = x == y", None),
    "deep brackets": ("ans = " + "(" * 5000 + "1" + ")" * 5000, None),
    "a power": ("ans = 10 ** 10 ** 9", None),
    "a tower": ("x = 3\nfor i in range(60):\n    x = x * x\nans = 1", None),
    "many digits": ("ans = 7 ** 20000", "limit of digits"),
    "reading digits": ("ans = int('9' * 5000)", "limit of digits"),
    "a shift": ("ans = 1 << 10**12", None),
    "printing": ("while True:\n    print('x' * 1000)", "limit of "),
    "printing at once": ("print('x' * 10**7)\nans = 1", "limit of "),
    "a long value": ("ans = 'x' * 10**6", None),
    "a long error": ("raise ValueError('x' * 10**6)", None),
    "waiting": ("import time\ntime.sleep(10**6)\nans = 1", None),
    "input": ("ans = input()", None),
}  # fmt: skip
"""Programs and how their error begins, where both sandboxes say the same."""
