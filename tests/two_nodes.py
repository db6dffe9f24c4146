"""Two nodes on one machine: two network namespaces with a cable between them where the machine lets us make
them, else two addresses of the loopback interface."""
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid

import psutil

MARK = "AAM_TWO_NODES" # In the environment of all that a pair of nodes starts


def ip(*words): subprocess.run(["ip", *words], check=True, capture_output=True, timeout=20)


class Namespaces:
    "Two network namespaces. Nothing reaches one from the other but through the cable."
    def __init__(self, folder):
        self.names = [f"aam{os.getpid() % 100000}x{i}" for i in range(2)]
        self.addresses, self.folder = ["10.77.0.1", "10.77.0.2"], folder
        try: self.connect()
        except BaseException:
            self.close()
            raise

    def connect(self):
        "Make both, and the cable."
        a, b = self.names
        for name in self.names: ip("netns", "add", name)
        ip("link", "add", a, "netns", a, "type", "veth", "peer", "name", b, "netns", b)
        for name, address in zip(self.names, self.addresses):
            ip("-n", name, "addr", "add", f"{address}/24", "dev", name)
            for card in (name, "lo"): ip("-n", name, "link", "set", card, "up")
        hosts = "".join(f"{o} node{i}\n::ffff:{o} node{i}\n" for i, o in enumerate(self.addresses))
        (self.folder/"hosts").write_text(f"127.0.0.1 localhost {socket.gethostname()}\n{hosts}")
        (self.folder/"resolv.conf").write_text("options timeout:1 attempts:1\n")

    def command(self, i):
        "What stands before a command on a node: names are found without asking a server."
        bind = 'for o in hosts resolv.conf; do mount --bind "$0/$o" /etc/$o; done; exec "$@"'
        return ["ip", "netns", "exec", self.names[i], "sh", "-c", bind, str(self.folder)]

    def card(self, i): return self.names[i]

    def close(self):
        "Take both away, with the cable."
        for name in self.names: subprocess.run(["ip", "netns", "del", name], capture_output=True, timeout=20)


class Loopback:
    "Two addresses of one machine."
    addresses = ["127.0.0.1", "127.0.0.2"]

    def command(self, i): return []
    def card(self, i): return "lo"
    def close(self): pass


def network(folder):
    "Two nodes, as separate as this machine allows."
    if os.name != "posix" or os.geteuid() or not shutil.which("ip"): return Loopback()
    try: return Namespaces(folder)
    except (OSError, subprocess.SubprocessError): return Loopback()


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Pair:
    "Two nodes, each with one `torchrun` that starts one process."
    def __init__(self, folder):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.mark, self.net, self.agents = folder, uuid.uuid4().hex, network(folder), []

    def start(self, *words):
        "Start a command on both nodes."
        port, self.agents = free_port(), []
        for i in range(2):
            meet = ["--master_addr", self.net.addresses[0], "--master_port", str(port)]
            who = ["--nnodes", "2", "--node_rank", str(i), "--local-addr", self.net.addresses[i]]
            run = [sys.executable, "-m", "torch.distributed.run", *who, *meet, "--nproc_per_node", "1"]
            command = [*self.net.command(i), *run, *map(str, words)]
            self.agents.append(self.popen(i, command))

    def popen(self, i, command):
        env = dict(os.environ, OMP_NUM_THREADS="1", TQDM_DISABLE="1", GLOO_SOCKET_IFNAME=self.net.card(i))
        with open(self.folder/f"node{i}.txt", "w") as out:
            return subprocess.Popen(command, env=env | {MARK: self.mark}, stdout=out, stderr=out)

    def said(self, i):
        "All that a node has written."
        return (self.folder/f"node{i}.txt").read_text()

    def until(self, ready, seconds=120):
        "Wait until something is so, while both nodes run."
        end = time.monotonic() + seconds
        while not ready():
            here = [o.poll() for o in self.agents]
            assert here == [None, None] and time.monotonic() < end, [here, self.said(0), self.said(1)]
            time.sleep(.05)

    def kill(self, i):
        "End a node as a power cut does: its agent, and all that this one started."
        agent = psutil.Process(self.agents[i].pid)
        for o in [agent, *agent.children(recursive=True)]: o.send_signal(signal.SIGKILL)

    def ask(self, nodes):
        "Ask nodes to stop, as SLURM does: it signals each agent, and all that this one started."
        for agent in [psutil.Process(self.agents[i].pid) for i in nodes]:
            for o in [agent, *agent.children(recursive=True)]: o.send_signal(signal.SIGTERM)

    def ends(self, seconds=120):
        "Exit statuses of both, once they have ended."
        end = time.monotonic() + seconds
        return [o.wait(max(end - time.monotonic(), .1)) for o in self.agents]

    def close(self):
        "Leave nothing behind, whatever happened."
        for o in psutil.process_iter():
            try: mine = o.environ().get(MARK) == self.mark
            except psutil.Error: continue
            if mine: o.kill()
        for o in self.agents: o.wait(20)
        self.net.close()
