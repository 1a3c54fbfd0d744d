// The routes of the shop. A controller, a service and a guard use the current session without a request.
import {
  BadRequestException,
  Body,
  type CanActivate,
  Controller,
  Get,
  HttpCode,
  InternalServerErrorException,
  Post,
  UseGuards,
} from '@nestjs/common'
import {
  currentSession,
  sessionPrincipal,
  sessionRef,
  sessionUpdate,
  signIn,
  signOut,
  updateCurrentSession,
} from 'keyrow/promise'

const cart = async () => sessionRef('cart', [])(await currentSession()) as readonly string[]

/** Lets only users who are signed in pass. */
class SignedIn implements CanActivate {
  async canActivate(): Promise<boolean> {
    return sessionRef(sessionPrincipal)(await currentSession()) !== undefined
  }
}

@Controller()
export class ShopController {
  @Get()
  async show() {
    return { user: sessionRef(sessionPrincipal, 'nobody')(await currentSession()), cart: await cart() }
  }

  @Post('cart')
  async add(@Body('sku') sku: string) {
    await updateCurrentSession(sessionUpdate('cart', (skus) => [...(skus as string[]), sku], []))
    if (sku === 'sold out') throw new InternalServerErrorException('this is sold out')
    if (sku === 'unknown') throw new BadRequestException('there is no such item')
    return cart()
  }

  @Post('in')
  @HttpCode(204)
  async enter(@Body('user') user: string) {
    await signIn(user)
  }

  @Post('out')
  @HttpCode(204)
  @UseGuards(SignedIn)
  async leave() {
    await signOut()
  }
}
