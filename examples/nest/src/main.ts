// Starts a small shop with NestJS, on Express or on Fastify (PLATFORM=fastify). Both use the same controller.
import 'reflect-metadata'
import { Module } from '@nestjs/common'
import { NestFactory } from '@nestjs/core'
import type { NestExpressApplication } from '@nestjs/platform-express'
import { FastifyAdapter, type NestFastifyApplication } from '@nestjs/platform-fastify'
import { sessionMiddleware } from 'keyrow/express'
import { sessionPlugin } from 'keyrow/fastify'
import { pgStore } from 'keyrow/pg'
import pg from 'pg'
import { ShopController } from './shop.controller.js'

const { DATABASE_URL, PLATFORM = 'express', PORT = '3000' } = process.env

const store = pgStore(new pg.Pool({ connectionString: DATABASE_URL, connectionTimeoutMillis: 5_000 }))

class ShopModule {}
Module({ controllers: [ShopController] })(ShopModule)

const onExpress = async () => {
  const app = await NestFactory.create<NestExpressApplication>(ShopModule, { logger: ['error'] })
  app.use(sessionMiddleware({ store }))
  return app
}

const onFastify = async () => {
  const app = await NestFactory.create<NestFastifyApplication>(ShopModule, new FastifyAdapter(), {
    logger: ['error'],
  })
  await app.register(sessionPlugin as never, { store })
  return app
}

const app = await (PLATFORM === 'fastify' ? onFastify() : onExpress())
app.enableShutdownHooks()
await app.listen(Number(PORT), '127.0.0.1')
console.log(`the shop is at ${await app.getUrl()}`)
