"""asyncpg.  It hands on only notifications of channels that have a listener, so
each channel of the steps gets one, and LISTEN is then taken back."""
import asyncio

import asyncpg
from steps import database, run, TIMEOUT

notify_sql = "SELECT pg_notify($1, $2)"


class Session:
    async def connect(self):
        self.connection = await asyncpg.connect(database=database, **self.address)
        self.arrived = asyncio.Event()
        self.transaction = None
        await self.add_listeners()

    async def add_listeners(self):
        for name in self.channels:
            await self.connection.add_listener(name, self.hear)
        await self.connection.execute("UNLISTEN *")

    def hear(self, connection, pid, channel, payload):
        self.heard.append((pid, channel, payload))
        self.arrived.set()

    async def close(self):
        await self.connection.close()

    def pid(self):
        return self.connection.get_server_pid()

    async def run(self, sql):
        await self.connection.execute(sql)
        if sql == "DISCARD ALL":
            # it does not see that its prepared statements are gone
            await self.connection.reload_schema_state()

    async def listen(self, name):
        await self.connection.remove_listener(name, self.hear)
        await self.connection.add_listener(name, self.hear)

    async def value(self, sql):
        return await self.connection.fetchval(sql)

    async def notify(self, channel, payload):
        await self.connection.execute(notify_sql, channel, payload)

    async def binary(self, channel, payload):
        await self.connection.fetchval(notify_sql, channel, payload)

    async def prepared(self, count, channel, payload):
        statement = await self.connection.prepare(notify_sql)
        for i in range(count):
            await statement.fetch(channel, payload + str(i + 1))

    async def begin(self):
        self.transaction = self.connection.transaction()
        await self.transaction.start()

    async def commit(self):
        await self.transaction.commit()

    async def rollback(self):
        await self.transaction.rollback()

    async def alive(self):
        await self.connection.execute("SELECT 1")
        await self.connection.fetch("SELECT 1")

    async def cancel(self):
        # what it does itself when a call has taken too long
        await self.connection._cancel(asyncio.get_running_loop().create_future())

    async def reset(self):
        await self.connection.reset()
        await self.add_listeners()

    async def wait_until_heard(self, count):
        while len(self.heard) < count:
            self.arrived.clear()
            await asyncio.wait_for(self.arrived.wait(), TIMEOUT)

    @staticmethod
    async def extras(sessions):
        lines = []
        async with asyncpg.create_pool(database=database, min_size=1, max_size=1, **sessions["other"].address) as pool:
            for i in range(2):
                async with pool.acquire() as connection:
                    async with connection.transaction(isolation="serializable", readonly=True):
                        await connection.execute(notify_sql, "drivers_end", str(i))
            lines.append("a pool")
            async with pool.acquire() as connection:
                await connection.executemany(notify_sql, [("drivers_end", "many")] * 3)
        await sessions["listener"].wait_until_heard(3)
        lines.append("and executemany: %s" % [n[2] for n in sessions["listener"].heard])
        return lines


asyncio.run(run(Session, asyncpg.PostgresError))
