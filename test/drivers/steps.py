"""Do the steps that are read from stdin, with a driver's class.

The class has a method for each action, perhaps a coroutine; see the file steps.
An object of it is a session, and keeps in .heard the notifications that have
come: (pid, channel, payload).
"""
import inspect
import os
import sys

TIMEOUT = 60

address = {
    "host": os.environ["PGHOST"],
    "port": int(os.environ["PGPORT"]),
    "user": os.environ["PGUSER"],
    "password": os.environ["PGPASSWORD"],
}
database = os.environ["PGDATABASE"]
notify_sql = "SELECT pg_notify(%s, %s)"


def say(text):
    sys.stdout.buffer.write(("= %s\n" % text).encode())
    sys.stdout.buffer.flush()


async def wait_for(result):
    return await result if inspect.isawaitable(result) else result


async def do_step(driver, sessions, action, arguments):
    if action == "extras":
        for line in await wait_for(driver.extras(sessions)):
            say("ok " + line)
        return
    name, *rest = arguments
    if action == "connect":
        session = sessions[name] = driver()
        session.heard = []
        session.address = {**address, "port": int(os.environ["OTHER_PORT"] if name == "other" else os.environ["PGPORT"])}
        await wait_for(session.connect())
        say("ok")
        return
    session = sessions[name]
    if action == "hear":
        count = int(rest[0])
        await wait_for(session.wait_until_heard(count))
        for pid, channel, payload in session.heard:
            say("%s %s %s" % ("own" if pid == session.pid() else "other", channel, payload))
        session.heard.clear()
    elif action == "pid":
        value = await wait_for(session.value("SELECT pg_backend_pid()"))
        say("own" if value == session.pid() else "another")
    elif action == "value":
        say(await wait_for(session.value(rest[0])))
    elif action == "prepared":
        await wait_for(session.prepared(int(rest[0]), rest[1], rest[2]))
        say("ok")
    else:
        await wait_for(getattr(session, action)(*rest))
        say("ok")


async def run(driver, error):
    sessions = {}
    driver.channels = []
    for line in sys.stdin.buffer:
        line = line.decode().rstrip("\n")
        action, *arguments = line.split("\t")
        print(line, flush=True)
        if action == "channel":
            driver.channels.append(arguments[0])
            continue
        try:
            await do_step(driver, sessions, action, arguments)
        except error as e:
            say("error %s" % (getattr(e, "sqlstate", None) or getattr(e, "pgcode", None) or repr(e)))


def quote(name):
    return '"%s"' % name.replace('"', '""')
